//! How a store of links is opened.

/// Settings of a [`CIDStore`](crate::CIDStore).
#[derive(Clone, Debug)]
pub struct LinksOptions {
    pub(crate) memory: u64,
    pub(crate) log_bytes: u64,
    pub(crate) log_key: Option<[u8; 32]>,
    pub(crate) background: bool,
    pub(crate) salvage: bool,
    pub(crate) cut_log: bool,
    pub(crate) seed: Option<[u64; 2]>,
    pub(crate) partition_bytes: u64,
    pub(crate) expires_versions: Option<bool>,
}

impl Default for LinksOptions {
    fn default() -> Self {
        Self {
            memory: default_memory(),
            log_bytes: 64 << 20,
            log_key: None,
            background: true,
            salvage: false,
            cut_log: false,
            seed: None,
            partition_bytes: 4 << 20,
            expires_versions: None,
        }
    }
}

impl LinksOptions {
    /// The default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes of partitions and of changes to partitions may be in memory (default a quarter of the machine's). A
    /// store that does not fit keeps working; what is not loaded is read from the file, mapped.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes.max(1 << 20);
        self
    }

    /// How large the log is made (default 64 MiB, a million changes). A larger one makes for fewer checkpoints and a longer
    /// recovery.
    #[must_use]
    pub fn log_bytes(mut self, bytes: u64) -> Self {
        self.log_bytes = bytes.max(64 << 10);
        self
    }

    /// The key of the log's MACs. Without it, a random one is kept in the store's file, where whoever can write the file
    /// can read it; a key kept elsewhere tells such changes of the log. It must be given at every opening.
    #[must_use]
    pub fn log_key(mut self, key: [u8; 32]) -> Self {
        self.log_key = Some(key);
        self
    }

    /// From which size on a partition is divided (default 4 MiB). Partitions are what is loaded, unloaded and written anew as a
    /// whole.
    #[must_use]
    pub fn partition_bytes(mut self, bytes: u64) -> Self {
        self.partition_bytes = bytes.clamp(16 << 10, 16 << 20);
        self
    }

    /// Whether checkpoints are written by a thread of the store (default), or by whoever fills half of the log.
    #[must_use]
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// Whether [`compact`](crate::CIDStore::compact) gives up the file's earlier commits, which hold the space of what was
    /// written anew (default: where the file is the links' own).
    #[must_use]
    pub fn expires_versions(mut self, expires: bool) -> Self {
        self.expires_versions = Some(expires);
        self
    }

    /// Open a store whose log is damaged with the good beginning of the log, and give up the rest (default no: it is an
    /// error).
    #[must_use]
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }

    /// Whether [`LinksOptions::salvage`] is set.
    pub fn is_salvaging(&self) -> bool {
        self.salvage
    }

    /// Leave out what the log has of transactions that the file does not have (default no: it is an error), and everything after.
    /// For a copy of a store, of which the file was copied as of one commit and the log later.
    #[must_use]
    pub fn cut_log(mut self, cut: bool) -> Self {
        self.cut_log = cut;
        self
    }

    /// The seed of a new store's hash (default random). For tests: with a known seed, keys can be made to collide.
    #[must_use]
    pub fn seed(mut self, seed: [u64; 2]) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// A quarter of the machine's memory, or half a gigabyte where that is not known.
fn default_memory() -> u64 {
    const UNKNOWN: u64 = 512 << 20;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return UNKNOWN };
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kilobytes.map_or(UNKNOWN, |kilobytes| (kilobytes / 4 * 1024).max(UNKNOWN))
}
