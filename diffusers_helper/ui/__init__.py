"""The page in the browser: reads jobs, sends commands. Knows Gradio and no tensors."""
