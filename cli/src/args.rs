//! What may be typed. The help texts are the documentation that most people read, so each command has an example.

use clap::{Args, Parser, Subcommand, ValueEnum};
use selftok::solvers::Solver;
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
    /// Continue a text with a causal language model (Llama, Mistral, Qwen, GPT-2)
    Complete(Complete),
    /// Show what a model is, and what it compiles to
    Inspect(Inspect),
    /// Run any supported network: named tensors in, named tensors out
    Run(Run),
    /// Sample from a diffusion network: noise and conditions in, samples out
    Sample(Sample),
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
    /// How to take them: euler (as the original), heun, midpoint (both twice the work a step), ab2 or dpmpp2m
    #[arg(long, value_name = "SOLVER", value_parser = solver)]
    pub solver: Option<Solver>,
    /// Seed of the diffusion's noise: the same seed gives the same pictures [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Diffusion {
    /// Steps to take.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(50)
    }

    /// Solver to use.
    pub fn solver(&self) -> Solver {
        self.solver.unwrap_or(Solver::Euler)
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

/// `sample`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  selftok sample unet --solver dpmpp2m --steps 20 --cfg 7.5 --inputs in.safetensors -o \
                        out.safetensors\n\nInputs are `sample` (standard noise [B, C, H, W]) and the network's conditions: \
                        `encoder_hidden_states`, `pooled_projections`, `class_labels`, each of B rows or of one for all; with \
                        guidance also `negative_encoder_hidden_states`, `negative_pooled_projections` (zeros where not given). \
                        The result is `out`."
)]
pub struct Sample {
    /// A folder of a diffusers UNet2DConditionModel, DiTTransformer2DModel or SD3Transformer2DModel, or of a pipeline with
    /// one; its scheduler_config.json is read where there is one
    #[arg(value_name = "MODEL_DIR")]
    pub network: PathBuf,
    /// ddim, euler, heun, dpmpp2m; for flow matching euler, heun, dpmpp2m, midpoint, ab2
    #[arg(long, value_name = "SOLVER", value_parser = solver, default_value = "euler")]
    pub solver: Solver,
    /// Steps of the solver
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub steps: usize,
    /// Classifier-free guidance u + CFG (c - u); 1 is none
    #[arg(long, value_name = "CFG", default_value_t = 1.0)]
    pub cfg: f64,
    /// Of flow matching: how far levels are moved towards noise [default: the scheduler's, else 3]
    #[arg(long, value_name = "SHIFT")]
    pub shift: Option<f64>,
    /// Draw the starting noise from this seed (torch.manual_seed's) where the inputs hold none
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Height and width of the drawn noise, in cells of the latent [default: config.json's sample_size]
    #[arg(long, value_name = "HxW", value_parser = size, requires = "seed")]
    pub size: Option<[usize; 2]>,
    /// Samples to draw [default: as many as the conditions have rows]
    #[arg(long, value_name = "N", requires = "seed")]
    pub count: Option<usize>,
    /// The tensors that go in
    #[arg(long, value_name = "IN.safetensors")]
    pub inputs: PathBuf,
    /// The file of results
    #[arg(long, short, value_name = "OUT.safetensors")]
    pub output: PathBuf,
}

/// `64x96`, or `64` for both sides.
fn size(text: &str) -> Result<[usize; 2], String> {
    let (h, w) = text.split_once('x').unwrap_or((text, text));
    match (h.parse(), w.parse()) {
        (Ok(h), Ok(w)) => Ok([h, w]),
        _ => Err("expected HEIGHTxWIDTH or one number for both, such as 64x96".into()),
    }
}

/// `complete`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  selftok complete SmolLM2-135M-Instruct.Q4_1.gguf 'The capital of France is' -n 16\n  \
                        selftok complete llama/ --ids 1,2,3 --temperature 0 --json\n  \
                        selftok complete model.gguf --chat 'Who are you?' --temperature 0.8 --top-p 0.95 --seed 7"
)]
pub struct Complete {
    /// A folder as Hugging Face publishes it (config.json, weights, tokenizer.json), or a GGUF file
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The text to continue; with --chat, what the user says
    #[arg(value_name = "TEXT", required_unless_present = "ids", conflicts_with = "ids")]
    pub text: Option<String>,
    /// Ids to continue, instead of a text; they are taken as they are
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', conflicts_with = "chat")]
    pub ids: Vec<u32>,
    /// The most tokens to add
    #[arg(long = "max-new", short = 'n', value_name = "N", default_value_t = 64)]
    pub max_new: usize,
    /// Divides the logits before drawing; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Draw from the N likeliest tokens only; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Draw from tokens at least this fraction as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,
    /// Makes tokens that were there before less likely; 1 for no difference
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Seed of the draws: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Put the text into the model's own chat template, as a user's turn
    #[arg(long)]
    pub chat: bool,
    /// A system message before the user's turn
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Go on after tokens that end a text
    #[arg(long)]
    pub ignore_stop: bool,
    /// How activations enter products with quantised weights: f32 is exact, int8 faster
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ActivationType::F32)]
    pub activations: ActivationType,
    /// Say on stderr how long the prompt took, and how fast tokens came; with --json, in the object as well
    #[arg(long)]
    pub stats: bool,
}

/// `--activations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActivationType {
    /// 32-bit floats
    F32,
    /// Signed bytes, a scale for each 32
    Int8,
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
    /// The network: a folder with config.json and its weights, a GGUF file, or a Selftok checkpoint
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

fn solver(name: &str) -> Result<Solver, String> {
    name.parse().map_err(|e: selftok::solvers::SolverError| e.to_string())
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
