//! Data channels across nodes: what is said about a broadcast here is heard there, and the other way round.
//!
//! In: messages that the exchange passes, and what is said on the other node. Out: each to the other. Nobody hears an echo:
//! what came through a corridor does not go back into it, and publishers are only looked for where the broadcast
//! comes from. Deliberately absent: the wire.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    channel::{SayError, check},
    exchange::{Exchange, Message, Speaker, To},
};
use crate::live::BroadcastId;

/// Messages on their way to another node. When full, that node misses some: they are counted, and nobody waits.
const WAITING_MAX: usize = 128;

/// Where the other node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The broadcast comes from there: the publisher is on that side.
    Above,
    /// The broadcast goes there: viewers only.
    Below,
}

/// What is said, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Utterance {
    pub to: To,
    pub binary: bool,
    pub data: Bytes,
}

/// The exchange's end of a corridor.
pub(super) struct Mouth {
    pub(super) number: u64,
    side: Side,
    queue: mpsc::Sender<Arc<Message>>,
}

impl Mouth {
    pub(super) fn new(number: u64, side: Side) -> (Self, mpsc::Receiver<Arc<Message>>) {
        let (queue, ear) = mpsc::channel(WAITING_MAX);
        (Self { number, side, queue }, ear)
    }

    pub(super) fn hears(&self, message: &Message) -> bool {
        let somebody = match self.side {
            Side::Above => message.to != To::Viewers,
            Side::Below => message.to != To::Publisher,
        };
        somebody && message.from != Speaker::Corridor(self.number)
    }

    /// `false` when full.
    pub(super) fn tell(&self, message: Arc<Message>) -> bool {
        self.queue.try_send(message).is_ok()
    }
}

/// The other node's end of a corridor. Dropping it closes it.
pub struct Corridor {
    exchange: Arc<Exchange>,
    broadcast: BroadcastId,
    side: Side,
    number: u64,
    ear: mpsc::Receiver<Arc<Message>>,
}

impl Corridor {
    pub(super) fn open(exchange: Arc<Exchange>, broadcast: BroadcastId, side: Side) -> Self {
        let (number, ear) = exchange.open(&broadcast, side);
        Self { exchange, broadcast, side, number, ear }
    }

    /// What is said here for the other node. Pending for ever where nothing is.
    pub fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Utterance> {
        match self.ear.poll_recv(cx) {
            Poll::Ready(Some(message)) => {
                let Message { to, binary, ref data, .. } = *message;
                Poll::Ready(Utterance { to, binary, data: data.clone() })
            }
            // The exchange holds the other end as long as this one is there.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    pub async fn hear(&mut self) -> Utterance {
        std::future::poll_fn(|cx| self.poll_hear(cx)).await
    }

    /// Says here what was said on the other node. Viewers of all nodes below together are heard as much as those of
    /// this one.
    pub fn say(&self, utterance: Utterance, now: Instant) -> Result<(), SayError> {
        let Utterance { to, binary, data } = utterance;
        check(binary, &data)?;
        self.exchange.door.received.inc();
        if self.side == Side::Below && !self.exchange.grants(&self.broadcast, data.len(), now) {
            self.exchange.door.dropped.inc();
            return Ok(());
        }
        let (broadcast, from) = (self.broadcast.clone(), Speaker::Corridor(self.number));
        self.exchange.pass(Message { broadcast, from, to, binary, data });
        Ok(())
    }
}

impl Drop for Corridor {
    fn drop(&mut self) {
        self.exchange.shut(&self.broadcast, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::telemetry::Telemetry;

    fn exchange() -> Arc<Exchange> {
        Arc::new(Exchange::new(Telemetry::new().door("data"), Vec::new(), BTreeMap::new()))
    }

    fn open(exchange: &Arc<Exchange>, side: Side) -> Corridor {
        Corridor::open(exchange.clone(), BroadcastId::new("live", "a").unwrap(), side)
    }

    fn heard(corridor: &mut Corridor) -> usize {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        std::iter::from_fn(|| match corridor.poll_hear(&mut cx) {
            Poll::Ready(utterance) => Some(utterance),
            Poll::Pending => None,
        })
        .count()
    }

    fn words(to: To) -> Utterance {
        Utterance { to, binary: false, data: Bytes::from_static(b"hello") }
    }

    #[test]
    fn each_node_hears_what_is_for_somebody_there_and_never_itself() {
        let exchange = exchange();
        let mut above = open(&exchange, Side::Above);
        let mut below = [open(&exchange, Side::Below), open(&exchange, Side::Below)];
        for (to, up, down) in [(To::Everybody, 1, 1), (To::Viewers, 0, 1), (To::Publisher, 1, 0)] {
            below[0].say(words(to), Instant::now()).unwrap();
            assert_eq!([heard(&mut above), heard(&mut below[0]), heard(&mut below[1])], [up, 0, down], "{to:?}");
            above.say(words(to), Instant::now()).unwrap();
            assert_eq!([heard(&mut above), heard(&mut below[0]), heard(&mut below[1])], [0, down, down], "{to:?}");
        }
        drop(below);
        drop(above);
        assert!(!exchange.has_circles_for_test());
    }

    #[test]
    fn a_node_that_does_not_listen_holds_nobody_up_and_misses_some() {
        let exchange = exchange();
        let (above, mut slow) = (open(&exchange, Side::Above), open(&exchange, Side::Below));
        (0..WAITING_MAX + 7).for_each(|_| above.say(words(To::Viewers), Instant::now()).unwrap());
        assert_eq!(exchange.door.dropped.get(), 7);
        assert_eq!(heard(&mut slow), WAITING_MAX);
    }

    #[test]
    fn viewers_of_all_nodes_share_one_allowance_and_the_publisher_has_its_own() {
        let exchange = exchange();
        let (mut above, below) = (open(&exchange, Side::Above), [(); 3].map(|()| open(&exchange, Side::Below)));
        let now = Instant::now();
        let mut passed = 0;
        for corridor in &below {
            for _ in 0..1_000 {
                corridor.say(words(To::Publisher), now).unwrap();
                passed += heard(&mut above);
            }
        }
        assert_eq!(passed, 1_000);
    }

    #[test]
    fn what_no_channel_could_carry_is_refused() {
        let exchange = exchange();
        let below = open(&exchange, Side::Below);
        let say = |binary, data: &[u8]| {
            below.say(Utterance { to: To::Everybody, binary, data: Bytes::copy_from_slice(data) }, Instant::now())
        };
        assert_eq!(say(true, b""), Err(SayError::Empty));
        assert_eq!(say(false, b"\xff"), Err(SayError::NotText));
        assert_eq!(say(true, &[0; 70_000]), Err(SayError::TooLong { length: 70_000 }));
    }
}
