//! The one published way to make SHA-1 collide that fits into a file: two beginnings with one hash, by <https://shattered.io>.

/// The first 320 bytes of both files of <https://shattered.io>, of which the last 128 differ; their SHA-1 is the same.
const SHATTERED: [&str; 3] = [
    "255044462d312e330a25e2e3cfd30a0a0a312030206f626a0a3c3c2f57696474682032203020522f4865696768742033203020522f54797065203420\
     3020522f537562747970652035203020522f46696c7465722036203020522f436f6c6f7253706163652037203020522f4c656e6774682038203020\
     522f42697473506572436f6d706f6e656e7420383e3e0a73747265616d0affd8fffe00245348412d3120697320646561642121212121852fec0923\
     39759c39b1a1c63c4c97e1fffe01",
    "7346dc9166b67e118f029ab621b2560ff9ca67cca8c7f85ba84c79030c2b3de218f86db3a90901d5df45c14f26fedfb3dc38e96ac22fe7bd728f0e45\
     bce046d23c570feb141398bb552ef5a0a82be331fea48037b8b5d71f0e332edf93ac3500eb4ddc0decc1a864790c782c76215660dd309791d06bd0\
     af3f98cda4bc4629b1",
    "7f46dc93a6b67e013b029aaa1db2560b45ca67d688c7f84b8c4c791fe02b3df614f86db1690901c56b45c1530afedfb76038e972722fe7ad728f0e49\
     04e046c230570fe9d41398abe12ef5bc942be33542a4802d98b5d70f2a332ec37fac3514e74ddc0f2cc1a874cd0c78305a21566461309789606bd0\
     bf3f98cda8044629a1",
];

/// The first 320 bytes of both files, of which the last 128 differ.
#[must_use]
pub fn shattered() -> [Vec<u8>; 2] {
    let bytes = |hex: &str| hex::decode(hex).expect("because it is hex");
    let [head, one, other] = SHATTERED.map(bytes);
    [[head.clone(), one].concat(), [head, other].concat()]
}

/// Plain SHA-1, without a look at whether somebody made its input collide.
#[must_use]
pub fn sha1(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}
