//! Supervision on top of ractor's links: restart rules, paths, and the shell's view of every actor.
