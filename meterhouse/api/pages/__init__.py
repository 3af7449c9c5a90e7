"""Pages for people, over the same reports, permissions and views as the API. See README.md."""
