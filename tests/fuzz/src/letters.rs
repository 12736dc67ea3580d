//! What nodes send each other through Redis, and whoever else can write there.

use bytes::Bytes;
use duet::{
    cluster::frame::{self, Record},
    id::NodeId,
};

/// A frame is read as it would be written, whatever it says.
pub fn letters(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    let to = NodeId(duet::id::Sid::ZERO);
    if let Some(number) = frame::read_echo(message.clone(), to) {
        assert!(data.starts_with(&frame::echo(to, number)));
    }
    let _ = frame::read_record(message.clone(), to, to).map(|record| same_again(record, to));
    let Some((head, records)) = frame::read(message) else { return };
    // What was read is no more than what came.
    assert!(records.iter().map(Bytes::len).sum::<usize>() + head.undelivered.len() * 9 <= data.len());
    let mut again = frame::head(&head);
    for record in &records {
        frame::append(&mut again, record);
    }
    // The flags have room for more.
    assert_eq!((again.len(), again[..].split_at(22).1), (data.len(), &data[22..]));
    for record in records {
        if let Some(record) = frame::read_record(record, head.from, to) {
            same_again(record, head.from);
        }
    }
}

fn same_again(record: Record, from: NodeId) {
    let to = NodeId(duet::id::Sid::ZERO);
    let written = match &record {
        Record::Letter(letter) => {
            assert_eq!((letter.from.node, letter.to.node), (from, to));
            frame::letter(letter)
        }
        Record::Adapter(channel, message) => frame::adapter(channel, message),
        Record::Question(number, question) => frame::question(*number, question),
        Record::Answer(number, answer) => frame::answer(*number, answer),
    };
    assert_eq!(frame::read_record(written.into(), from, to), Some(record));
}
