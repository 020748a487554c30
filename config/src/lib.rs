//! How a node is told what to be: its configuration (flags, environment, file), kubeconfig files and join tokens.
//!
//! The node's process and the shell call it. Merging, parsing and validation are pure and take the texts as arguments;
//! reading and writing files is kept to the few functions that say so. It never opens a socket: what only the machine
//! knows (its host name, the address of its default route) comes in as `node::MachineFacts`.

pub mod arguments;
pub mod cidr;
pub mod file;
pub mod kubeconfig;
pub mod name;
pub mod node;
pub mod token;

pub use arguments::NodeArguments;
pub use cidr::Ipv4Cidr;
pub use kubeconfig::Kubeconfig;
pub use node::NodeConfiguration;
pub use token::JoinToken;
