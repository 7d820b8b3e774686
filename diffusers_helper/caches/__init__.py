"""Step caches: methods that skip the transformer's blocks on some steps, behind one small interface."""
