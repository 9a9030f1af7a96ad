//! The engine that both models share: keyed queue, back-off, supervisor.
