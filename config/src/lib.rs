//! How a node is told what to be: file, environment and flags, kubeconfig, join tokens.
