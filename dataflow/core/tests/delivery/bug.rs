//! What could be wrong with an implementation, to see that the simulation would notice.

/// What could be wrong with an implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A slot is made from an arrival counter.
    SlotByArrival,
    /// Everything that was read is committed.
    CommitBeforeAck,
    /// The reader keeps no slots.
    NoReaderSet,
    /// The reader keeps other slots for the topic of errors than for all others.
    SetForEachTopic,
    /// A new owner does not fill its set.
    NoRefill,
    /// Slots are forgotten by the clock, whatever is still to be read.
    WallTime,
    /// The sinks are not read at a take-over.
    NoScan,
    /// The sinks are read from the time of the last commit on.
    SinceIsNow,
    /// `since` of a commit counts the records of its own topic only.
    SinceOfOneInput,
    /// The slot of a join depends on the number of sides that are there.
    SlotBySides,
    /// A new owner does not know of the errors that are under way: which sides are dead.
    ForgottenError,
    /// An owner that was frozen for longer than W goes on.
    OldZombie,
}

impl Bug {
    pub const ALL: [Bug; 12] = [
        Bug::SlotByArrival,
        Bug::CommitBeforeAck,
        Bug::NoReaderSet,
        Bug::SetForEachTopic,
        Bug::NoRefill,
        Bug::WallTime,
        Bug::NoScan,
        Bug::SinceIsNow,
        Bug::SinceOfOneInput,
        Bug::SlotBySides,
        Bug::ForgottenError,
        Bug::OldZombie,
    ];
}

impl Bug {
    /// It costs calls of models, and breaks no promise to callers.
    pub fn shows_in_calls(self) -> bool {
        matches!(self, Bug::NoScan | Bug::SinceIsNow | Bug::SinceOfOneInput)
    }
}
