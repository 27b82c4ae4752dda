"""Object stores and web servers: file systems, retries and their event loop."""
