//! What Ant Media's signalling (`common/antmedia`) asks of an origin: that a publisher is let in, in that protocol's
//! terms.

use std::sync::Arc;

use headwater_common::{antmedia, live::Writer};

use crate::announce::{Desk, Refusal};

pub(crate) fn entrance(desk: Desk) -> antmedia::Entrance {
    let asked = desk.clone();
    let check: antmedia::Ask<()> = Arc::new(move |stream, token, publisher| {
        let desk = asked.clone();
        Box::pin(async move {
            let admitted = desk.admits(stream.app(), stream.stream(), Some(&token), publisher).await;
            admitted.map_err(|refusal| told(&refusal))
        })
    });
    let claim: antmedia::Ask<Writer> = Arc::new(move |stream, token, publisher| {
        let desk = desk.clone();
        Box::pin(async move {
            let claimed = desk.claim(stream.app(), stream.stream(), Some(&token), publisher).await;
            claimed.map_err(|refusal| told(&refusal))
        })
    });
    antmedia::Entrance { check, claim }
}

fn told(refusal: &Refusal) -> antmedia::Refusal {
    let text = refusal.to_string();
    match refusal {
        Refusal::Claim(_) => antmedia::Refusal::InUse(text),
        Refusal::Unauthorized { .. } | Refusal::UnknownApp { .. } | Refusal::Id(_) => {
            antmedia::Refusal::Unauthorized(text)
        }
        Refusal::Busy(busy) => antmedia::Refusal::from(*busy),
        Refusal::Registry(_) => antmedia::Refusal::Registry(text),
    }
}
