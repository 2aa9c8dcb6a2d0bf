"""Block programs over symbolic tensors: what autograd saves, what is live, and when."""
