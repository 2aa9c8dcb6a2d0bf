"""The real training step: the transformers class, its adapters and optimizer, one step of them.

An extra (``pip install 'lmsize[measure]'``). torch, transformers and peft are imported inside
functions; no model code of the Hub is ever run and no weights are loaded.

::

    step = built_step(config, spec, device="cuda")   # model, adapters, optimizer, micro-batches
    step.run()                                       # forward, backward, optimizer, zero_grad
"""
