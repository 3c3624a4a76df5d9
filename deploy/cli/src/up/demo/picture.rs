//! A grey picture: read from a PGM file, shown in a terminal.

/// Black is 0, white is 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    grey: Vec<u8>,
}

/// Dots of one character of Braille: two columns of four.
const ACROSS: usize = 2;
const DOWN: usize = 4;

/// The character without dots.
const NO_DOTS: u32 = 0x2800;

/// Bits of the dots, row by row.
const BITS: [[u32; ACROSS]; DOWN] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

impl Picture {
    /// Reads a binary PGM file of 256 grey values without comments.
    pub(super) fn parse(pgm: &[u8]) -> Option<Self> {
        let mut words = pgm.splitn(4, |byte| byte.is_ascii_whitespace());
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<usize>().ok();
        let (magic, rest) = pgm.split_at_checked(3)?;
        (magic == b"P5\n").then_some(())?;
        let _magic = number();
        let (width, height) = (number()?, number()?);
        let body = rest.iter().enumerate().filter(|(_, byte)| byte.is_ascii_whitespace()).nth(2)?.0;
        let grey = rest.get(body + 1..)?.to_vec();
        (grey.len() == width * height && !grey.is_empty()).then_some(Self { width, height, grey })
    }

    /// Red, green and blue of all pixels, row by row.
    pub(super) fn rgb(&self) -> Vec<u8> {
        self.grey.iter().flat_map(|grey| [*grey; 3]).collect()
    }

    /// The picture in dots, dark ones set, at most so many characters wide.
    pub(super) fn dots(&self, columns: usize) -> String {
        let across = (columns * ACROSS).min(self.width);
        let scale = self.width as f64 / across as f64;
        let down = (self.height as f64 / scale).ceil() as usize;
        let mut text = String::new();
        for row in 0..down.div_ceil(DOWN) {
            for column in 0..across.div_ceil(ACROSS) {
                let mut character = NO_DOTS;
                for (y, bits) in BITS.iter().enumerate() {
                    for (x, bit) in bits.iter().enumerate() {
                        if self.is_dark(column * ACROSS + x, row * DOWN + y, scale) {
                            character |= bit;
                        }
                    }
                }
                text.push(char::from_u32(character).unwrap_or(' '));
            }
            text.push('\n');
        }
        text
    }

    /// The mean of the pixels of a dot is dark.
    fn is_dark(&self, x: usize, y: usize, scale: f64) -> bool {
        let range = |at: usize, end: usize| {
            let from = (at as f64 * scale) as usize;
            from..(((at + 1) as f64 * scale) as usize).max(from + 1).min(end)
        };
        let (columns, rows) = (range(x, self.width), range(y, self.height));
        let pixels = rows.flat_map(|row| columns.clone().map(move |column| row * self.width + column));
        let (mut sum, mut count) = (0, 0);
        for pixel in pixels.filter_map(|pixel| self.grey.get(pixel)) {
            (sum, count) = (sum + usize::from(*pixel), count + 1);
        }
        count > 0 && sum / count < 128
    }
}

#[cfg(test)]
mod tests {
    use super::Picture;

    #[test]
    fn a_picture_is_read_and_shown() {
        let picture = Picture::parse(b"P5\n4 4\n255\n\x00\xff\xff\xff\x00\xff\xff\xff\x00\xff\xff\xff\x00\x00\x00\x00");
        let picture = picture.expect("a picture");
        assert_eq!((picture.width, picture.height), (4, 4));
        assert_eq!(picture.rgb()[..6], [0, 0, 0, 255, 255, 255]);
        assert_eq!(picture.dots(10), "⣇⣀\n");
        for bad in [&b"P5\n4 4\n255\n\x00"[..], b"P6\n1 1\n255\n\x00", b"P5", b"P5\n0 0\n255\n", b""] {
            assert_eq!(Picture::parse(bad), None);
        }
    }
}
