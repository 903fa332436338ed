"""Reports: plots as inline SVG and self-contained HTML pages."""
