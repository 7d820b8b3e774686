"""From noise to clean latents: schedule, sampler, guidance, and the step loop. Knows no sections and no files."""
