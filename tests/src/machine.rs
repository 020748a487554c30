//! A machine: a network namespace with one interface on a bridge that joins all machines of a test, and with the test's own
//! namespace, so that clients reach every node.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// The network that joins the machines of one test.
pub struct Wire {
    bridge: String,
    prefix: [u8; 3],
}

/// A machine on a wire.
pub struct Machine {
    /// The namespace's name.
    pub namespace: String,
    /// Its address.
    pub address: Ipv4Addr,
    link: String,
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the program `ip` (iproute2) runs");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Wire {
    /// A bridge in the test's namespace with the address `.254` of a network that this process alone uses.
    pub fn new(number: u8) -> Wire {
        assert!(
            nix::unistd::geteuid().is_root(),
            "end-to-end tests make network namespaces: run them as root"
        );
        let pid = std::process::id();
        // Beside the ranges of pods (10.244.0.0/16) and services (10.96.0.0/12).
        let prefix = [10, 120 + (pid % 100) as u8, number];
        let wire = Wire {
            bridge: format!("at{}x{number}", pid % 1_000_000),
            prefix,
        };
        ip(&format!("link add {} type bridge", wire.bridge));
        ip(&format!("address add {}/24 dev {}", wire.address(254), wire.bridge));
        ip(&format!("link set {} up", wire.bridge));
        wire
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.prefix[0], self.prefix[1], self.prefix[2], last)
    }

    /// A machine with the address that ends in `number`.
    pub fn machine(&self, number: u8) -> Machine {
        let namespace = format!("{}-{number}", self.bridge);
        let link = format!("{}p{number}", self.bridge);
        let address = self.address(number);
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {link} type veth peer name eth0 netns {namespace}"));
        ip(&format!("link set {link} master {} up", self.bridge));
        for command in ["link set lo up", "link set eth0 up"] {
            ip(&format!("-n {namespace} {command}"));
        }
        ip(&format!("-n {namespace} address add {address}/24 dev eth0"));
        ip(&format!("-n {namespace} route add default via {}", self.address(254)));
        Machine {
            namespace,
            address,
            link,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).status();
    }
}

impl Machine {
    fn namespace_file(&self) -> File {
        File::open(format!("/run/netns/{}", self.namespace)).expect("the machine's namespace exists")
    }

    /// Lets a command run on this machine: in its network namespace, everything else as the test has it (`ip netns exec`
    /// would hide the cgroups).
    pub fn place<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let namespace = self.namespace_file();
        // SAFETY: setns is async-signal-safe and touches nothing of the parent.
        unsafe { command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)) }
    }

    /// Does something on this machine, in a thread of its own.
    pub fn on<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace_file();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace that it made");
                work()
            });
            there.join().expect("the work on the machine does not panic")
        })
    }

    /// GET of a page from this machine, HTTP/1.0.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<String, String> {
        self.on(|| {
            let failed = |error: std::io::Error| format!("{address}{path}: {error}");
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(failed)?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").map_err(failed)?;
            let mut page = String::new();
            stream.read_to_string(&mut page).map_err(failed)?;
            Ok(page)
        })
    }

    /// Drops all packets to and from this machine, or lets them pass again.
    pub fn cut(&self, cut: bool) {
        ip(&format!(
            "link set {} {}",
            self.link,
            if cut { "nomaster" } else { "up" }
        ));
        if !cut {
            let bridge = self
                .link
                .rsplit_once('p')
                .map(|(bridge, _)| bridge.to_owned())
                .unwrap_or_default();
            ip(&format!("link set {} master {bridge}", self.link));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
        let _ = Command::new("ip").args(["link", "delete", &self.link]).output();
    }
}
