"""How the book is made: chapter helpers, figures, site, PDF."""
