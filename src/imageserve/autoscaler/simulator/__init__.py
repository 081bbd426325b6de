"""What rules of scaling do with a load: pods, a queue and a clock that exist only here."""
