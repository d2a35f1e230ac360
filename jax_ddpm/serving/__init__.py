"""The page of --mode serve: what may be asked of it, how the chain is drawn as it runs, how it looks. One file knows Gradio."""
