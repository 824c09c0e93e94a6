"""What results say: boards, statistics, tables, and the formats and the page they are written in."""
