"""Pure vocabulary of trading: standard library and msgspec only, no clock, no I/O."""
