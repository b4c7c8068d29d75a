"""One deterministic engine: events in, commands out; backtest, dry-run, live and replay share it."""
