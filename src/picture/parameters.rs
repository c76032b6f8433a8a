//! The parameters a picture was made with, as a PNG carries them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use image::RgbImage;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PngText, encode_png};
use crate::bundle::manifest::{SamplerKind, is_unguided};
use crate::error::{Error, Result};

/// Keyword of the text chunk that holds [`Parameters`] as JSON.
const KEYWORD: &str = "rissole";
/// Keyword under which image tools look for parameters in words.
const TOOLS_KEYWORD: &str = "parameters";

/// All that decides the pixels of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Version of rissole that made the picture. Another version may round differently.
    pub version: String,
    /// Name of the model.
    pub model: String,
    /// BLAKE3 of the bundle's `manifest.json`, which in turn holds the hash of every file: 64 hexadecimal digits.
    pub manifest_blake3: String,
    /// Seed of all noise and of the random query.
    pub seed: u64,
    /// Sampler.
    pub sampler: SamplerKind,
    /// Sampling steps.
    pub steps: usize,
    /// Guidance over retrieval; absent where it is 1, none.
    #[serde(default = "unguided", skip_serializing_if = "is_unguided")]
    pub guidance: f32,
    /// Neighbours k.
    pub neighbours: usize,
    /// What was looked up in the database.
    pub query: QuerySource,
    /// Whether the query could not be its own neighbour.
    pub exclude_self: bool,
}

/// The guidance that changes nothing.
fn unguided() -> f32 {
    1.0
}

/// Where the query came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuerySource {
    /// A picture of the database, drawn by the seed.
    Random,
    /// The picture of the database with this id.
    Id(u64),
    /// A file, known by the BLAKE3 of its content in hexadecimal digits.
    Image(String),
}

impl Parameters {
    /// The PNG of `picture` that carries these parameters: as JSON under `rissole` and in the words of image
    /// tools under `parameters`.
    ///
    /// # Errors
    /// As [`encode_png`].
    pub fn encode_png(&self, picture: &RgbImage) -> Result<Vec<u8>> {
        let json = serde_json::to_string(self).map_err(|e| Error::Internal(e.to_string()))?;
        encode_png(picture, &[(KEYWORD, &json), (TOOLS_KEYWORD, &self.in_words(picture.dimensions()))])
    }

    /// The parameters that the PNG at `path` carries, given its `text`; `None` when rissole did not make it.
    ///
    /// # Errors
    /// [`Error::File`] when they are there but not understood.
    pub fn from_png(path: &Path, text: &PngText) -> Result<Option<Self>> {
        let parse = |json| serde_json::from_str(json);
        let fault = |e| Error::file(path, format!("its rissole parameters are not understood: {e}"));
        text.get(KEYWORD).map(parse).transpose().map_err(fault)
    }

    /// A line of words and a line of `Key: value` pairs, the convention by which image tools read `parameters`.
    fn in_words(&self, (width, height): (u32, u32)) -> String {
        let Self { version, model, manifest_blake3, seed, steps, neighbours, query, .. } = self;
        let sampler = match self.sampler {
            SamplerKind::Ddpm => "DDPM",
            SamplerKind::Ddim => "DDIM",
            SamplerKind::DpmSolverPp2m => "DPM++ 2M",
            SamplerKind::Consistency => "Consistency",
        };
        let guidance =
            if is_unguided(&self.guidance) { String::new() } else { format!("CFG scale: {}, ", self.guidance) };
        let hash: String = manifest_blake3.chars().take(10).collect();
        format!(
            "{model}, query {query}, {neighbours} neighbours\nSteps: {steps}, Sampler: {sampler}, {guidance}Seed: {seed}, \
             Size: {width}x{height}, Model hash: {hash}, Model: {model}, Version: rissole {version}"
        )
    }
}

impl fmt::Display for QuerySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Id(id) => write!(f, "id:{id}"),
            Self::Image(hash) => write!(f, "image:{hash}"),
        }
    }
}

impl FromStr for QuerySource {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "random" => Ok(Self::Random),
            Some(("id", id)) => id.parse().map(Self::Id).map_err(|_| format!("{id:?} is not an id")),
            Some(("image", hash)) if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self::Image(hash.to_owned()))
            }
            _ => Err(format!("{text:?} is not a query")),
        }
    }
}

impl Serialize for QuerySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QuerySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::ImageSize;

    fn parameters(query: QuerySource) -> Parameters {
        Parameters {
            version: "0.1.0".into(),
            model: "avatars64".into(),
            manifest_blake3: "ab".repeat(32),
            seed: u64::MAX,
            sampler: SamplerKind::DpmSolverPp2m,
            steps: 20,
            guidance: 1.0,
            neighbours: 8,
            query,
            exclude_self: true,
        }
    }

    fn text(pairs: &[(&str, &str)]) -> PngText {
        let texts = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        PngText { size: ImageSize { width: 64, height: 64 }, texts }
    }

    #[test]
    fn parameters_come_back_whole() {
        for query in [QuerySource::Random, QuerySource::Id(u64::MAX), QuerySource::Image("0f".repeat(32))] {
            let parameters = parameters(query);
            let json = serde_json::to_string(&parameters).unwrap();
            let back = Parameters::from_png(Path::new("a.png"), &text(&[("rissole", &json)])).unwrap();
            assert_eq!(back, Some(parameters));
        }
        // Where there is none, nothing is said of guidance, as before there was any.
        let guided = |guidance| serde_json::to_string(&Parameters { guidance, ..parameters(QuerySource::Random) });
        assert!(!guided(1.0).unwrap().contains("guidance"));
        let back = Parameters::from_png(Path::new("a.png"), &text(&[("rissole", &guided(1.7).unwrap())]));
        assert_eq!(back.unwrap().unwrap().guidance, 1.7);
    }

    #[test]
    fn foreign_and_damaged_parameters_are_told_apart() {
        let path = Path::new("a.png");
        assert_eq!(Parameters::from_png(path, &text(&[("parameters", "Steps: 20")])).unwrap(), None);
        for bad in ["", "{}", "{\"seed\":-1}", "[1,2", "null"] {
            assert_eq!(Parameters::from_png(path, &text(&[("rissole", bad)])).unwrap_err().exit_code(), 3, "{bad}");
        }
        for bad in ["", "id:", "id:-1", "image:", "image:xyz", "ranDom", "image:../../etc/passwd"] {
            assert!(bad.parse::<QuerySource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn image_tools_find_their_keys() {
        let guided = Parameters { guidance: 1.5, ..parameters(QuerySource::Random) };
        assert!(guided.in_words((64, 48)).contains("Sampler: DPM++ 2M, CFG scale: 1.5, Seed: "));
        let words = parameters(QuerySource::Random).in_words((64, 48));
        let last = words.lines().last().unwrap();
        assert_eq!(
            last,
            "Steps: 20, Sampler: DPM++ 2M, Seed: 18446744073709551615, Size: 64x48, Model hash: ababababab, \
             Model: avatars64, Version: rissole 0.1.0"
        );
    }
}
