class Moewe < Formula
  desc "Run, convert and train Mixture-of-Experts language models"
  homepage "@REPOSITORY@"
  version "@VERSION@"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    on_arm do
      url "@REPOSITORY@/releases/download/v@VERSION@/moewe-@VERSION@-aarch64-apple-darwin.tar.gz"
      sha256 "@SHA256:aarch64-apple-darwin@"
    end
    on_intel do
      url "@REPOSITORY@/releases/download/v@VERSION@/moewe-@VERSION@-x86_64-apple-darwin.tar.gz"
      sha256 "@SHA256:x86_64-apple-darwin@"
    end
  end

  on_linux do
    on_arm do
      url "@REPOSITORY@/releases/download/v@VERSION@/moewe-@VERSION@-aarch64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256:aarch64-unknown-linux-gnu@"
    end
    on_intel do
      url "@REPOSITORY@/releases/download/v@VERSION@/moewe-@VERSION@-x86_64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256:x86_64-unknown-linux-gnu@"
    end
  end

  def install
    bin.install "moewe"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/moewe.bash" => "moewe"
    zsh_completion.install "completions/_moewe"
    fish_completion.install "completions/moewe.fish"
  end

  test do
    # A small model is part of the program.
    system bin/"moewe", "run", "--raw", "--prompt", "Es war einmal", "-n", "8"
  end
end
