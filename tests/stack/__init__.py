"""docker-compose.yml on a machine without Docker: read, held to rules, and its processes run as it says."""
