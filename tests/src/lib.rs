//! End-to-end tests over real node processes, and the simulation.
