"""The edge: HTTP in front of the engine. FastAPI lives here and nowhere below."""
