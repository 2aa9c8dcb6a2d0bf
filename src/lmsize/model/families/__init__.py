"""One reader a family; each registers its `model_type` values with :func:`lmsize.model.family`."""
