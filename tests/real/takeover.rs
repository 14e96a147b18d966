//! HLS when the node dies that a broadcast came in at: its players keep their playlist, wherever the publisher comes back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use headwater_edge::hls::lint::{Lint, Playlist};

use crate::{
    cluster::{secret, settings},
    harness::{Clock, Mongod, Player, Server, heavy, light, playlist::resolve, s, scratch, until},
};

const PATH: &str = "/live/streams/on.m3u8";

/// What a playlist looked like all the time.
#[derive(Default)]
struct Seen {
    lint: Lint,
    last: Option<Playlist>,
    texts: usize,
    complaints: Vec<String>,
}

impl Seen {
    fn look(&mut self, text: &str) {
        self.texts += 1;
        self.complaints.extend(self.lint.check(text).into_iter().map(|complaint| format!("{complaint}\n{text}")));
        let Ok(list) = Playlist::parse(text) else { return };
        if list.segments.is_empty() {
            self.complaints.push(format!("it is empty: {text}"));
        }
        if let Some(last) = &self.last
            && list.media_sequence >= last.media_sequence + last.segments.len() as u64
        {
            self.complaints.push(format!("nothing is left of {last:?} in {text}"));
        }
        self.last = Some(list);
    }
}

/// Looks at an edge's playlist again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Seen>,
}

impl Watch {
    fn start(server: &Server) -> Self {
        let (stop, url) = (Arc::<AtomicBool>::default(), server.url(PATH));
        let looking = thread::spawn({
            let stop = stop.clone();
            move || {
                let client = reqwest::blocking::Client::builder().no_proxy().build().expect("an HTTP client");
                let mut seen = Seen::default();
                while !stop.load(Relaxed) {
                    let answer = client.get(&url).send().expect("the edge answers");
                    match (answer.status().is_success(), answer.text()) {
                        (true, Ok(text)) => seen.look(&text),
                        (_, answer) => seen.complaints.push(format!("refused: {answer:?}")),
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                seen
            }
        });
        Self { stop, looking }
    }

    fn finish(self) -> Seen {
        self.stop.store(true, Relaxed);
        self.looking.join().expect("what was seen")
    }
}

fn playlist(server: &Server) -> Option<Playlist> {
    let answer = server.get(PATH);
    answer.status().is_success().then(|| Playlist::parse(&answer.text().expect("text")).expect("a playlist"))
}

/// Its segments by name, with the numbers that stand at them.
fn numbers(list: &Playlist) -> BTreeMap<String, (u64, u64)> {
    let numbered = (list.media_sequence..).zip(&list.segments);
    let there = numbered.filter(|(_, segment)| !segment.gap);
    there.map(|(number, segment)| (segment.uri.clone(), (number, segment.discontinuity))).collect()
}

fn newest_discontinuity(list: &Playlist) -> u64 {
    list.segments.last().map_or(list.discontinuity_sequence, |last| last.discontinuity)
}

fn until_playlist(server: &Server, what: &str, good: impl Fn(&Playlist) -> bool) -> Playlist {
    until(&format!("a playlist with {what}"), s(30), || playlist(server).filter(&good))
}

#[test]
fn an_origin_that_is_killed_costs_hls_players_no_segment_and_no_number() {
    heavy(s(150), || {
        let mongod = Mongod::replica_set(scratch("mongod"), 1);
        let (registry, trust) = (format!("[registry]\nmongodb = \"{}\"\n", mongod.uri("")), secret());
        let origin = |others: &[&Server]| Server::part("origin", &format!("{}{registry}", settings(&trust, others)));
        let mut first = origin(&[]);
        let second = origin(&[&first]);
        let edge = || Server::part("edge", &settings(&trust, &[&second]));
        let edges = [edge(), edge()];
        let publisher = Clock { id: 1, ..Clock::default() }.publish(&first.rtmp_url("live/on"));
        edges.iter().for_each(|edge| drop(until_playlist(edge, "four segments", |list| list.segments.len() >= 4)));
        let watches = [Watch::start(&edges[0]), Watch::start(&edges[1])];
        let mut viewer = Player::hls(&edges[0], "live", "on");
        viewer.until("the first publisher's picture", s(30), |report| report.number("ids.1") > 60.0);
        let before = playlist(&edges[0]).expect("a playlist");

        viewer.press("reset");
        viewer.until("a new measurement", s(10), |report| report.number("seconds") < 0.5);
        first.kill();
        drop(publisher);
        let killed = Instant::now();
        let _again = Clock { id: 2, ..Clock::default() }.publish(&second.rtmp_url("live/on"));
        let back = viewer.until("the second publisher's picture", s(40), |report| report.number("ids.2") > 60.0);
        println!("two seconds of the second publisher seen {:?} after the kill", killed.elapsed());
        println!("longest pause {} ms, errors {}", back.at("gap_ms_max"), back.at("hls.errors"));
        let late = edge();
        let after =
            |list: &Playlist| list.segments.len() >= 4 && newest_discontinuity(list) > newest_discontinuity(&before);
        let lists = [&edges[0], &edges[1], &late].map(|edge| until_playlist(edge, "the second publisher", after));
        let seen = viewer.finish();
        let bad = |error: &&serde_json::Value| error["fatal"] == true || error["details"] == "levelEmptyError";
        let errors = seen.at("hls.errors").as_array().expect("a list").clone();
        assert_eq!(errors.iter().find(bad), None, "{errors:#?}");
        // A publisher is away for as long as it needs to start, and a segment's parts come when it does.
        assert!(back.number("gap_ms_max") < 8_000.0, "{:#}", back.0);

        for watch in watches {
            let seen = watch.finish();
            assert_eq!(seen.complaints, Vec::<String>::new());
            assert!(seen.texts > 30, "{}", seen.texts);
        }
        for list in &lists {
            assert_eq!(newest_discontinuity(list), newest_discontinuity(&before) + 1, "{list:?}");
            let gaps = list.segments.iter().filter(|segment| segment.gap).count();
            assert!(gaps <= 1, "{list:?}");
        }
        let listed = lists.map(|list| numbers(&list));
        for other in &listed[1..] {
            let both: Vec<_> = other.iter().filter(|(name, _)| listed[0].contains_key(*name)).collect();
            assert!(both.len() >= 2, "{listed:#?}");
            assert!(both.iter().all(|(name, number)| listed[0][*name] == **number), "{listed:#?}");
        }
        for name in listed[0].keys().filter(|name| listed[1].contains_key(*name)) {
            let path = resolve(PATH, name);
            let [one, other] = [&edges[0], &edges[1]].map(|edge| edge.get(&path));
            // The oldest may have left meanwhile.
            if one.status() == 200 && other.status() == 200 {
                assert!(one.bytes().expect("media") == other.bytes().expect("media"), "{name} is not the same");
            }
        }
    });
}

#[test]
fn a_node_that_is_killed_and_started_again_goes_on_with_its_numbers() {
    light(s(120), || {
        let mut server = Server::start();
        let publisher = Clock { id: 1, ..Clock::default() }.publish(&server.rtmp_url("live/on"));
        let before = until_playlist(&server, "four segments", |list| list.segments.len() >= 4);
        server.kill();
        drop(publisher);
        server.start_again();
        let _again = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/on"));
        let after = until_playlist(&server, "two segments", |list| list.segments.len() >= 2);
        assert_eq!(Lint::default().check(&server.get(PATH).text().expect("text")), Vec::<String>::new());
        let end = |list: &Playlist| list.media_sequence + list.segments.len() as u64;
        let jump = after.media_sequence - end(&before);
        println!("the first number afterwards is {jump} behind the last whole segment's");
        // What was begun, and what may have been begun since it was written down.
        assert!(jump <= 4, "{before:?}\n{after:?}");
        assert_eq!(after.discontinuity_sequence, newest_discontinuity(&before) + 1, "{after:?}");
        assert_eq!(before.target_s, after.target_s);
        assert!(numbers(&before).keys().all(|name| !numbers(&after).contains_key(name)));
    });
}
