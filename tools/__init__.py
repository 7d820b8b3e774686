"""Programs of the project's makers; nothing here is needed to use it."""
