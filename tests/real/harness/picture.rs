//! A picture that tells the time: what `tests/clients/probe.js` reads back. Pure: time and number in, a raw frame out.

/// Fits 40 cells of whole pixels, and a strip whose height is even.
pub(crate) const WIDTH: usize = 640;
pub(crate) const HEIGHT: usize = 360;

const CELLS: usize = 40;
const ROW: usize = HEIGHT / 10;
const BLACK: u8 = 16;
const WHITE: u8 = 235;
const GREY: u8 = 128;

/// One frame as planar YUV 4:2:0.
pub(crate) struct Picture {
    planes: Vec<u8>,
}

impl Picture {
    pub(crate) fn new() -> Self {
        Self { planes: vec![GREY; WIDTH * HEIGHT * 3 / 2] }
    }

    pub(crate) fn draw(&mut self, unix_ms: u64, publisher: u8, number: u32) -> &[u8] {
        self.row(0, 0b1010, unix_ms as u32);
        self.row(1, 0b0101, u32::from(publisher) << 24 | number & 0xff_ffff);
        // Something that moves, so that a keyframe is not all there is to encode.
        for y in 2 * ROW..HEIGHT {
            for x in 0..WIDTH {
                self.planes[y * WIDTH + x] = (64 + ((x + 2 * number as usize) ^ y) % 128) as u8;
            }
        }
        &self.planes
    }

    fn row(&mut self, row: usize, sync: u8, word: u32) {
        let check = (0..8).fold(5, |check, nibble| check ^ (word >> (4 * nibble)) & 15);
        let bits = u64::from(sync) << 36 | u64::from(word) << 4 | u64::from(check);
        for cell in 0..CELLS {
            let colour = if bits >> (CELLS - 1 - cell) & 1 == 1 { WHITE } else { BLACK };
            for y in row * ROW..(row + 1) * ROW {
                let at = y * WIDTH + cell * WIDTH / CELLS;
                self.planes[at..at + WIDTH / CELLS].fill(colour);
            }
        }
    }
}
