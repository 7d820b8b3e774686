"""Context plans and history: which latents stand where in time. Integers and shapes; no model, no device."""
