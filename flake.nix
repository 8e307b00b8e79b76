{
  description = "Run, convert and train Mixture-of-Experts language models on your own machine";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
        "x86_64-darwin"
      ];
      manifest = fromTOML (builtins.readFile ./Cargo.toml);
    in
    {
      packages = nixpkgs.lib.genAttrs systems (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          default = pkgs.rustPlatform.buildRustPackage {
            pname = "moewe";
            version = manifest.workspace.package.version;
            src = self;
            cargoLock.lockFile = ./Cargo.lock;
            buildType = "dist";
            cargoBuildFlags = [
              "-p"
              "moewe"
            ];
            # The tests want an unoptimized build of their own, and loopback; `.ci/run` runs them.
            doCheck = false;
            nativeBuildInputs = [ pkgs.installShellFiles ];
            postInstall = pkgs.lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
              $out/bin/moewe man man
              installManPage man/*.1
              installShellCompletion --cmd moewe \
                --bash <($out/bin/moewe completions bash) \
                --zsh <($out/bin/moewe completions zsh) \
                --fish <($out/bin/moewe completions fish)
            '';
            meta = {
              description = manifest.package.description;
              homepage = manifest.workspace.package.repository;
              license = [
                pkgs.lib.licenses.mit
                pkgs.lib.licenses.asl20
              ];
              mainProgram = "moewe";
            };
          };
        }
      );
    };
}
