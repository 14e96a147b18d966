//! Viewers that don't decode: `whep_load HOST:PORT PATH VIEWERS SECONDS [SERVER_PID]` joins them by WHEP, keeps them
//! alive, throws media away, and tells what a packet and a viewer cost the server (threads named webrtc-*).

use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::SdpAnswer,
    media::{Direction, MediaKind},
    net::{Protocol, Receive},
};

struct Viewer {
    rtc: Rtc,
    socket: UdpSocket,
    connected: bool,
    packets: u64,
    bytes: u64,
    first: Option<Duration>,
    began: Instant,
    timeout: Instant,
}

impl Viewer {
    fn join(server: &str, path: &str) -> Result<Self> {
        let began = Instant::now();
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        let mut rtc = RtcConfig::new().set_rtp_mode(true).build(began);
        rtc.add_local_candidate(Candidate::host(socket.local_addr()?, "udp")?);
        let mut api = rtc.sdp_api();
        api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let (offer, pending) = api.apply().context("no offer")?;
        let offer = offer.to_sdp_string();
        let mut http = TcpStream::connect(server)?;
        let length = offer.len();
        let head = "Content-Type: application/sdp\r\nConnection: close";
        write!(http, "POST {path} HTTP/1.1\r\nHost: {server}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{offer}")?;
        let mut response = String::new();
        http.read_to_string(&mut response)?;
        ensure!(response.starts_with("HTTP/1.1 201"), "{response}");
        let answer = response.split_once("\r\n\r\n").context("no body")?.1;
        rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(answer)?)?;
        let viewer = Self { rtc, socket, connected: false, packets: 0, bytes: 0, first: None, began, timeout: began };
        Ok(viewer)
    }

    fn turn(&mut self, buffer: &mut [u8], now: Instant) -> Result<()> {
        let local = self.socket.local_addr()?;
        let mut driven = false;
        while let Ok((length, from)) = self.socket.recv_from(buffer) {
            let media = buffer[0] >= 128;
            if media && !(192..=223).contains(&buffer[1]) {
                self.packets += 1;
                self.bytes += length as u64;
                self.first.get_or_insert(self.began.elapsed());
            }
            if !media || !self.connected {
                let input = Input::Receive(now, Receive::new(Protocol::Udp, from, local, &buffer[..length])?);
                self.rtc.handle_input(input)?;
                self.drain()?;
                driven = true;
            }
        }
        if !driven && now >= self.timeout {
            self.rtc.handle_input(Input::Timeout(now))?;
            self.drain()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.timeout = at;
                    return Ok(());
                }
                Output::Transmit(transmit) if transmit.proto == Protocol::Udp => {
                    // A full buffer is a lost packet.
                    let _ = self.socket.send_to(&transmit.contents, transmit.destination);
                }
                Output::Transmit(_) => {}
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(_) => {}
            }
        }
    }
}

/// CPU seconds of the media threads, and resident kilobytes.
fn server(pid: &str) -> Result<(f64, u64)> {
    let mut ticks = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        let (name, rest) = stat.rsplit_once(')').context("stat")?;
        if name.contains("(webrtc-") {
            ticks += rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
        }
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok((ticks as f64 / 100.0, rss.trim().trim_end_matches(" kB").parse()?))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, viewers, seconds, rest @ ..] = &args[..] else {
        anyhow::bail!("HOST:PORT PATH VIEWERS SECONDS")
    };
    let (viewers, seconds): (usize, u64) = (viewers.parse()?, seconds.parse()?);
    let pid = rest.first();
    let before = pid.map(|pid| server(pid)).transpose()?;
    let mut buffer = [0; 2_048];
    let mut all: Vec<Viewer> = Vec::new();
    let started = Instant::now();
    for _ in 0..viewers {
        all.push(Viewer::join(address, path)?);
        // One at a time: its join time is then its own.
        while all.last().is_some_and(|viewer| viewer.first.is_none()) {
            ensure!(started.elapsed() < Duration::from_secs(120), "joins hang");
            for viewer in all.iter_mut().rev().take(2) {
                viewer.turn(&mut buffer, Instant::now())?;
            }
        }
        for viewer in &mut all {
            if Instant::now() >= viewer.timeout {
                viewer.turn(&mut buffer, Instant::now())?;
            }
        }
    }
    let joined = started.elapsed();
    let run = |all: &mut Vec<Viewer>, seconds: u64| -> Result<()> {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            for viewer in all.iter_mut() {
                viewer.turn(&mut [0; 2_048], Instant::now())?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    run(&mut all, 4)?;
    let from = pid.map(|pid| server(pid)).transpose()?;
    let packets: u64 = all.iter().map(|viewer| viewer.packets).sum();
    let began = Instant::now();
    run(&mut all, seconds)?;
    let packets = all.iter().map(|viewer| viewer.packets).sum::<u64>() - packets;
    let mut firsts: Vec<u128> = all.iter().filter_map(|viewer| viewer.first).map(|first| first.as_millis()).collect();
    firsts.sort_unstable();
    println!(
        "{viewers} viewers joined in {joined:?}; offer to first packet: median {} ms, worst {} ms",
        firsts[firsts.len() / 2],
        firsts[firsts.len() - 1]
    );
    println!("{packets} packets in {:?}", began.elapsed());
    if let (Some(pid), Some(before), Some(from)) = (pid, before, from) {
        let after = server(pid)?;
        let cpu = after.0 - from.0;
        println!(
            "{:.2} µs of CPU per packet ({cpu:.2} s), {} kB per viewer",
            cpu * 1e6 / packets as f64,
            (after.1.saturating_sub(before.1)) / viewers as u64
        );
    }
    Ok(())
}
