//! The node's agent: one actor per pod that is bound to this node, which runs its containers through the runtime.
