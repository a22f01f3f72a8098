"""Code that runs on the untrusted side: standard library only, it must import without the rest of the project."""
