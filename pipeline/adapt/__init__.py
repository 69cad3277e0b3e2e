"""Stage `adapt`: masked-LM teachers made of encoders, or specialised on a text, by a low-rank adapter and a head."""
