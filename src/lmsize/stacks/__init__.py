"""Block programs, one file a stack: what its layers, embeddings and heads do."""
