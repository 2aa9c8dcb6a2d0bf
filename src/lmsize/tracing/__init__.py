"""The real model, optimizer and adapters on fake tensors: memory to the byte, with no accelerator."""
