//! Starts pods as processes: namespaces, cgroups, images, volumes, logs.
