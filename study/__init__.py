"""How the models were made and measured; nothing in qlinear imports from here."""
