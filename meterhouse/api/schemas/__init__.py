"""Shapes of the HTTP API as OpenAPI shows them, a module per family of routes. Money is text with twelve decimals,
times are RFC 3339 in UTC."""
