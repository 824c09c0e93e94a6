"""Reports on results: boards, statistics, tables, and the output formats, including the HTML page."""
