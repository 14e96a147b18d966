//! Messages as bytes. In and out: what prost makes of them. Deliberately absent: anything but how many of them are
//! written side by side before they leave.

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Of several messages that are there at a time, so much leaves together: media of many broadcasts is more than tonic's 32
/// KiB, and each departure costs a call into the kernel here and a wake-up there. Other messages are few and small.
pub const TOGETHER_BYTES: usize = 112 << 10;
/// Where they are written. It grows by being copied.
const ROOM_BYTES: usize = 64 << 10;

#[derive(Debug, Clone)]
pub struct Together<T, U>(ProstCodec<T, U>);

impl<T, U> Default for Together<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for Together<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(ROOM_BYTES, TOGETHER_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.0.decoder()
    }
}
