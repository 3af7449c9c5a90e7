"""A real Apache Kafka for tests, benchmarks and development, without Docker."""
