//! What may be typed. The help texts are the documentation that most people read, so each command has an example.

use clap::{Args, Parser, Subcommand, ValueEnum};
use selftok::tokens::Order;
use std::path::PathBuf;

/// Pictures to tokens and back, with Selftok.
///
/// Without --model, the model is the one that $SELFTOK_MODEL names, else the first found in ../share/selftok beside
/// this program, in the user's data folder, and in the source checkout.
#[derive(Debug, Parser)]
#[command(
    name = "selftok",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed (one sentence on stderr says why), 2 wrong usage, 130 interrupted.\n\
                  `selftok COMMAND --help` shows an example of each command."
)]
pub struct Cli {
    /// What is common to all commands.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Common {
    /// A model folder (config.json, tokenizer.*, renderer.*, vae/) or a checkpoint as released. Give it twice to name
    /// a tokenizer and a renderer file
    #[arg(long, short, global = true, value_name = "DIR|FILE")]
    pub model: Vec<PathBuf>,
    /// A config.json to use instead of the one beside the model
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The autoencoder: a diffusers folder, to use instead of vae/ beside the model
    #[arg(long, global = true, value_name = "DIR")]
    pub vae: Option<PathBuf>,
    /// Where to compute; auto says on stderr what it chose, and why
    #[arg(long, global = true, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Threads to compute with [default: as many as the machine has]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Precision of decoding; encoding is always in f32, so that the tokens are those of the original
    #[arg(long, global = true, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Pictures that go through a network at once: more are faster in all, and take more memory
    #[arg(long, global = true, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub batch: u16,
    /// Print one JSON object on stdout, for machines
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn pictures into tokens
    Encode(Encode),
    /// Turn tokens back into pictures
    Decode(Decode),
    /// Show how well pictures survive: tokens, PSNR, SSIM and a contact sheet
    Recon(Recon),
    /// Show what a model is, and what it compiles to
    Inspect(Inspect),
    /// Run any supported network: named tensors in, named tensors out
    Run(Run),
}

/// `encode`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  selftok encode photo.jpg album/ 'more/*.png' -o tokens.npy")]
pub struct Encode {
    /// Pictures, folders of pictures, or patterns such as 'photos/*.png'
    #[arg(required = true, value_name = "IMG")]
    pub images: Vec<PathBuf>,
    /// The token file to write: .npy (as the original's), .json or .safetensors. Needed unless --json prints the tokens
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Order of the tokens in the file: index (as the original's) or ar (as a language model writes them)
    #[arg(long, value_parser = order, default_value = "index", value_name = "index|ar")]
    pub order: Order,
}

/// `decode`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  selftok decode tokens.npy -o picture.png\n  \
                        selftok decode tokens.npy -o pictures/ --mode diffuse --steps 50 --seed 7 --prefix 32")]
pub struct Decode {
    /// Token files: .npy, .json or .safetensors
    #[arg(required = true, value_name = "TOKENS")]
    pub tokens: Vec<PathBuf>,
    /// A .png for one picture, a folder for several
    #[arg(long, short, value_name = "OUT")]
    pub output: PathBuf,
    /// One step of the renderer, or many of the diffusion decoder [default: render where the model has a renderer, unless
    /// an option of the diffusion is given]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Order of the tokens in the files [default: what the file says, else index]
    #[arg(long, value_parser = order, value_name = "index|ar")]
    pub order: Option<Order>,
    /// How to diffuse.
    #[command(flatten)]
    pub diffusion: Diffusion,
    /// Diffuse from the first N tokens alone, in the order in which they are written
    #[arg(long, value_name = "N")]
    pub prefix: Option<usize>,
}

/// Options of the diffusion decoder.
#[derive(Debug, Args)]
pub struct Diffusion {
    /// Steps of the diffusion, from 1 to 1000 [default: 50]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Seed of the diffusion's noise: the same seed gives the same pictures [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Diffusion {
    /// Steps to take.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(50)
    }

    /// Seed to use.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }
}

/// `recon`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  selftok recon photo.jpg -o sheet.png --prefixes 4,16,32,64")]
pub struct Recon {
    /// Pictures, folders of pictures, or patterns such as 'photos/*.png'
    #[arg(required = true, value_name = "IMG")]
    pub images: Vec<PathBuf>,
    /// The contact sheet to write: a row for each picture, a column for each way it was made
    #[arg(long, short, value_name = "FILE.png")]
    pub output: PathBuf,
    /// How to diffuse.
    #[command(flatten)]
    pub diffusion: Diffusion,
    /// Adds a column for each of these numbers: the diffusion from so many first tokens alone
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    pub prefixes: Vec<usize>,
}

/// `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  selftok inspect models/mini --memory")]
pub struct Inspect {
    /// The model: a folder or a checkpoint, as for --model
    #[arg(value_name = "MODEL")]
    pub path: Option<PathBuf>,
    /// List every tensor of its files; any safetensors, .pth or GGUF file will do
    #[arg(long)]
    pub weights: bool,
    /// List the nodes of its networks as recorded
    #[arg(long)]
    pub graph: bool,
    /// Print the compiled plans: one row a kernel
    #[arg(long)]
    pub plan: bool,
    /// Print what a session takes: peak bytes, the lower bound, and each buffer's life
    #[arg(long)]
    pub memory: bool,
}

/// `run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  selftok run dinov2-small/ --inputs pictures.safetensors -o features.safetensors"
)]
pub struct Run {
    /// The network: a folder with config.json and its weights
    #[arg(value_name = "MODEL_DIR")]
    pub network: PathBuf,
    /// A safetensors file whose tensors have the names of the network's inputs, such as pixel_values or input_ids
    #[arg(long, short, value_name = "FILE")]
    pub inputs: PathBuf,
    /// The safetensors file to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
}

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The best there is
    Auto,
    /// The processor
    Cpu,
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats
    F32,
    /// bfloat16 products, summed in f32
    Bf16,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One step of the renderer, from all tokens
    Render,
    /// Many small steps of the diffusion decoder
    Diffuse,
}

fn order(name: &str) -> Result<Order, String> {
    name.parse().map_err(|e: selftok::tokens::TokensError| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn common_options_stand_before_or_after_the_command() {
        for line in ["selftok --json encode a.png", "selftok encode a.png --json"] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().common.json);
        }
    }

    #[test]
    fn prefixes_are_a_list() {
        let cli =
            Cli::try_parse_from(["selftok", "recon", "a.png", "-o", "s.png", "--prefixes", "4,16"]).unwrap();
        let Command::Recon(recon) = cli.command else { panic!("recon was typed") };
        assert_eq!(recon.prefixes, [4, 16]);
    }
}
