//! How machines become one cluster: QUIC mesh, gossip membership, identity, consensus, remoting.
