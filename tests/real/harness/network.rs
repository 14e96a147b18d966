//! Machines of one test on a wire of their own, as network namespaces: each has an address, and the wire between two of
//! them can be cut, made lossy and narrow, and mended.
//!
//! The thread that asks for a network moves into it: what it starts and connects to is in there from then on. Nothing
//! leaves it, and the kernel takes it down when the last process has gone. Where namespaces are not allowed (they take
//! root), machines are addresses of 127/8: everything works but what needs a cut.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::Write,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Process, s};

/// Of the wire where the test itself is, with every encoder and browser that it starts.
const TEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub(crate) struct Network {
    kind: Kind,
    machines: AtomicU8,
}

enum Kind {
    /// Keeps the namespace of the wire while machines come and go.
    Namespaces(#[expect(dead_code, reason = "lives as long as the network")] Process),
    /// The third byte of all addresses.
    Loopback(u8),
}

pub(crate) struct Machine {
    pub(crate) address: Ipv4Addr,
    /// Keeps the machine's namespace while its processes come and go.
    namespace: Option<(Process, PathBuf)>,
    faults: RefCell<BTreeMap<Ipv4Addr, Fault>>,
}

/// What happens to packets between two machines, either way. Nobody is told of those that are lost.
#[derive(Clone, Copy)]
enum Fault {
    Cut,
    LossPercent(u8),
}

impl Network {
    pub(crate) fn new() -> Self {
        static LOOPBACKS: AtomicU8 = AtomicU8::new(0);
        // Made here rather than below, so that a machine that can't do one of this is known before anything stands on it.
        let kind = namespace("network", "ip link add wire type bridge && nft list ruleset").map(|(process, path)| {
            let namespace = File::open(path).expect("a process has a network namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("who may make a namespace may enter it");
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["address", "add", &format!("{TEST}/24"), "dev", "wire"]);
            run("ip", &["link", "set", "wire", "up"]);
            Kind::Namespaces(process)
        });
        let loopback = || {
            println!(
                "no network namespaces, bridges or nftables here (they take root): machines are addresses of 127/8"
            );
            // Other runs of the tests on this machine have other numbers, most likely.
            Kind::Loopback((std::process::id() as u8).wrapping_add(LOOPBACKS.fetch_add(1, Ordering::Relaxed)))
        };
        Self { kind: kind.unwrap_or_else(loopback), machines: AtomicU8::new(10) }
    }

    /// Whether wires can be cut; a test that needs that says so and is skipped.
    pub(crate) fn can_be_cut(&self) -> bool {
        matches!(self.kind, Kind::Namespaces(_))
    }

    /// Where the test itself is.
    pub(crate) fn test(&self) -> Ipv4Addr {
        match self.kind {
            Kind::Namespaces(_) => TEST,
            Kind::Loopback(_) => Ipv4Addr::LOCALHOST,
        }
    }

    pub(crate) fn machine(&self) -> Machine {
        let number = self.machines.fetch_add(1, Ordering::Relaxed);
        let (address, namespace) = match &self.kind {
            Kind::Loopback(third) => (Ipv4Addr::new(127, 77, *third, number), None),
            Kind::Namespaces(_) => {
                let address = Ipv4Addr::new(10, 77, 0, number);
                let (process, path) = namespace("machine", ":").expect("the network has a namespace as well");
                let (port, id) = (format!("port{number}"), process.id().to_string());
                run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &id]);
                run("ip", &["link", "set", &port, "master", "wire", "up"]);
                let inside = format!(
                    "ip link set lo up && ip address add {address}/24 dev eth0 && ip link set eth0 up \
                     && ip route add default via {TEST}"
                );
                run("nsenter", &[&format!("--net={}", path.display()), "sh", "-c", &inside]);
                (address, Some((process, path)))
            }
        };
        Machine { address, namespace, faults: RefCell::default() }
    }
}

impl Machine {
    /// What comes before a command line that is to run on this machine.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let enter = |(_, path): &(_, PathBuf)| vec!["nsenter".to_owned(), format!("--net={}", path.display())];
        self.namespace.as_ref().map(enter).unwrap_or_default()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let words = [self.prefix(), vec![program.to_owned()]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// From now on nothing gets through between the two, either way, and nobody is told.
    pub(crate) fn cut(&self, other: &Machine) {
        self.set(other, Some(Fault::Cut));
    }

    /// From now on this share of all packets between the two is lost, each way.
    pub(crate) fn lose(&self, other: &Machine, percent: u8) {
        self.set(other, Some(Fault::LossPercent(percent)));
    }

    pub(crate) fn mend(&self, other: &Machine) {
        self.set(other, None);
    }

    /// Packets are dropped where they arrive: a sender is told of those that its own machine drops.
    fn set(&self, other: &Machine, fault: Option<Fault>) {
        for (machine, peer) in [(self, other), (other, self)] {
            match fault {
                Some(fault) => machine.faults.borrow_mut().insert(peer.address, fault),
                None => machine.faults.borrow_mut().remove(&peer.address),
            };
            machine.write_faults();
        }
    }

    fn write_faults(&self) {
        assert!(self.namespace.is_some(), "an address of 127/8 can't be cut off");
        let mut page = "flush ruleset\ntable ip faults {\nchain in {\ntype filter hook input priority 0\n".to_owned();
        for (peer, fault) in self.faults.borrow().iter() {
            page += &match fault {
                Fault::Cut => format!("ip saddr {peer} drop\n"),
                Fault::LossPercent(percent) => format!("ip saddr {peer} numgen random mod 100 < {percent} drop\n"),
            };
        }
        page += "}\n}\n";
        let mut nft = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
        nft.stdin.take().expect("a pipe").write_all(page.as_bytes()).expect("nft listens");
        assert!(nft.wait().expect("nft ends").success(), "{page}");
    }
}

/// A process that waits in a network namespace of its own for the end of this one, once `first` has succeeded there, and
/// where that is.
fn namespace(name: &str, first: &str) -> Option<(Process, PathBuf)> {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &format!("{first} && echo ready && exec cat")]);
    let mut process = Process::start(name, &mut command);
    process.line_unless_ended(s(10), |line| (line == "ready").then_some(()))?;
    let path = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
    Some((process, path))
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn machines_meet_are_cut_off_and_meet_again() {
    use std::net::UdpSocket;
    super::light(s(60), || {
        let network = Network::new();
        let [one, other] = [(); 2].map(|()| network.machine());
        let sink = UdpSocket::bind((network.test(), 0)).expect("a port on the wire");
        sink.set_read_timeout(Some(std::time::Duration::from_millis(200))).expect("a timeout that is not zero");
        let mut relay = one.command("python3");
        relay.arg("-c").arg(format!(
            "import socket\ns = socket.socket(2, 2)\ns.bind(('{}', 8000))\nprint('ready', flush=True)\n\
             while True: s.sendto(s.recv(9), {:?})",
            one.address,
            (network.test().to_string(), sink.local_addr().expect("bound").port()),
        ));
        let mut relay = Process::start("what passes datagrams on", &mut relay);
        relay.line("its start", s(10), |line| (line == "ready").then_some(()));
        let arrive = || {
            let script = format!(
                "import socket, time\ns = socket.socket(2, 2)\n\
                 for i in range(200): s.sendto(b'x', ('{}', 8000)); time.sleep(0.001)",
                one.address
            );
            assert!(other.command("python3").args(["-c", &script]).status().expect("python runs").success());
            std::iter::from_fn(|| sink.recv(&mut [0; 8]).ok()).count()
        };
        assert_eq!(arrive(), 200);
        if !network.can_be_cut() {
            println!("skipped: cuts");
            return;
        }
        other.cut(&one);
        assert_eq!(arrive(), 0);
        other.lose(&one, 50);
        assert!((60..140).contains(&arrive()));
        other.mend(&one);
        assert_eq!(arrive(), 200);
    });
}
