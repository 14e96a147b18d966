//! What Ant Media's signalling (`common/antmedia`) asks of an origin: that a publisher is let in, in that protocol's
//! terms.

use std::sync::Arc;

use headwater_common::antmedia;

use crate::announce::{Desk, Refusal};

pub(crate) fn claim(desk: Desk) -> antmedia::Claim {
    Arc::new(move |stream, token, publisher| {
        let desk = desk.clone();
        Box::pin(async move {
            let claimed = desk.claim(stream.app(), stream.stream(), Some(&token), publisher).await;
            claimed.map_err(|refusal| told(&refusal))
        })
    })
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
