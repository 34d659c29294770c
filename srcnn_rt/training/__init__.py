"""Training and export: the only place in the package that imports torch.

Nothing outside ``srcnn_rt.train`` and its own commands imports this package,
so running a model never needs torch.
"""
