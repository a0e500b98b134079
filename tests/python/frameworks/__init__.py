"""Applications of the frameworks that people use, with what their documentation shows; served here and by uvicorn."""
