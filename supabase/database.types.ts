// What an app may read and call of pgcheckout, for createClient<Database>(…): tables, and the functions for signed-in
// users. Made from the migrations by the Supabase CLI (make types); do not edit. Your server, or an app with tables of
// its own: `supabase gen types` in your project describes everything.
export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[];

export type Database = {
  public: {
    Tables: {
      payment_checkout_sessions: {
        Row: {
          amount: number;
          attempts: number;
          checkout_url: string | null;
          completed_at: string | null;
          coupon_id: string | null;
          created_at: string;
          currency: string;
          current_attempt: number | null;
          discount_amount: number;
          email: string | null;
          error_code: string | null;
          error_message: string | null;
          expires_at: string;
          fulfilment: Json | null;
          fulfilment_status: string;
          id: string;
          idempotency_fingerprint: string | null;
          idempotency_key: string | null;
          kind: string;
          metadata: NonNullable<Json>;
          original_amount: number;
          product_id: string;
          provider: string;
          provider_customer_id: string | null;
          provider_payment_id: string | null;
          provider_session_id: string | null;
          refunded_amount: number;
          review_reason: string | null;
          status: string;
          subject: string | null;
          terms: NonNullable<Json>;
          updated_at: string;
          user_id: string;
        };
        ComputedFields: never;
        Insert: {
          amount: number;
          attempts?: number;
          checkout_url?: string | null;
          completed_at?: string | null;
          coupon_id?: string | null;
          created_at: string;
          currency: string;
          current_attempt?: number | null;
          discount_amount?: number;
          email?: string | null;
          error_code?: string | null;
          error_message?: string | null;
          expires_at: string;
          fulfilment?: Json | null;
          fulfilment_status?: string;
          id: string;
          idempotency_fingerprint?: string | null;
          idempotency_key?: string | null;
          kind: string;
          metadata?: NonNullable<Json>;
          original_amount: number;
          product_id: string;
          provider: string;
          provider_customer_id?: string | null;
          provider_payment_id?: string | null;
          provider_session_id?: string | null;
          refunded_amount?: number;
          review_reason?: string | null;
          status?: string;
          subject?: string | null;
          terms: NonNullable<Json>;
          updated_at: string;
          user_id: string;
        };
        Update: {
          amount?: number;
          attempts?: number;
          checkout_url?: string | null;
          completed_at?: string | null;
          coupon_id?: string | null;
          created_at?: string;
          currency?: string;
          current_attempt?: number | null;
          discount_amount?: number;
          email?: string | null;
          error_code?: string | null;
          error_message?: string | null;
          expires_at?: string;
          fulfilment?: Json | null;
          fulfilment_status?: string;
          id?: string;
          idempotency_fingerprint?: string | null;
          idempotency_key?: string | null;
          kind?: string;
          metadata?: NonNullable<Json>;
          original_amount?: number;
          product_id?: string;
          provider?: string;
          provider_customer_id?: string | null;
          provider_payment_id?: string | null;
          provider_session_id?: string | null;
          refunded_amount?: number;
          review_reason?: string | null;
          status?: string;
          subject?: string | null;
          terms?: NonNullable<Json>;
          updated_at?: string;
          user_id?: string;
        };
        Relationships: [
          {
            foreignKeyName: "payment_checkout_sessions_product_id_fkey";
            columns: ["product_id"];
            isOneToOne: false;
            referencedRelation: "payment_products";
            referencedColumns: ["id"];
          },
        ];
      };
      payment_contributions: {
        Row: {
          amount: number;
          currency: string;
          cycle: number;
          group_id: string;
          paid_at: string;
          session_id: string;
          status: string;
          updated_at: string;
          user_id: string;
        };
        ComputedFields: never;
        Insert: {
          amount: number;
          currency: string;
          cycle: number;
          group_id: string;
          paid_at: string;
          session_id: string;
          status: string;
          updated_at: string;
          user_id: string;
        };
        Update: {
          amount?: number;
          currency?: string;
          cycle?: number;
          group_id?: string;
          paid_at?: string;
          session_id?: string;
          status?: string;
          updated_at?: string;
          user_id?: string;
        };
        Relationships: [
          {
            foreignKeyName: "payment_contributions_group_id_fkey";
            columns: ["group_id"];
            isOneToOne: false;
            referencedRelation: "payment_groups";
            referencedColumns: ["id"];
          },
        ];
      };
      payment_credit_balances: {
        Row: {
          balance: number;
          updated_at: string;
          user_id: string;
        };
        ComputedFields: never;
        Insert: {
          balance: number;
          updated_at: string;
          user_id: string;
        };
        Update: {
          balance?: number;
          updated_at?: string;
          user_id?: string;
        };
        Relationships: [];
      };
      payment_credit_entries: {
        Row: {
          amount: number;
          created_at: string;
          id: number;
          note: string | null;
          reason: string;
          source: string;
          user_id: string;
        };
        ComputedFields: never;
        Insert: {
          amount: number;
          created_at: string;
          id?: never;
          note?: string | null;
          reason: string;
          source: string;
          user_id: string;
        };
        Update: {
          amount?: number;
          created_at?: string;
          id?: never;
          note?: string | null;
          reason?: string;
          source?: string;
          user_id?: string;
        };
        Relationships: [];
      };
      payment_group_members: {
        Row: {
          currency: string;
          group_id: string;
          joined_at: string;
          position: number;
          security_deposit: number;
          session_id: string;
          status: string;
          updated_at: string;
          user_id: string;
        };
        ComputedFields: never;
        Insert: {
          currency: string;
          group_id: string;
          joined_at: string;
          position: number;
          security_deposit: number;
          session_id: string;
          status: string;
          updated_at: string;
          user_id: string;
        };
        Update: {
          currency?: string;
          group_id?: string;
          joined_at?: string;
          position?: number;
          security_deposit?: number;
          session_id?: string;
          status?: string;
          updated_at?: string;
          user_id?: string;
        };
        Relationships: [
          {
            foreignKeyName: "payment_group_members_group_id_fkey";
            columns: ["group_id"];
            isOneToOne: false;
            referencedRelation: "payment_groups";
            referencedColumns: ["id"];
          },
        ];
      };
      payment_groups: {
        Row: {
          capacity: number;
          contribution_product_id: string;
          created_at: string;
          created_by: string;
          cycle: string;
          id: string;
          join_product_id: string | null;
          name: string;
          status: string;
        };
        ComputedFields: never;
        Insert: {
          capacity: number;
          contribution_product_id: string;
          created_at: string;
          created_by: string;
          cycle: string;
          id: string;
          join_product_id?: string | null;
          name: string;
          status?: string;
        };
        Update: {
          capacity?: number;
          contribution_product_id?: string;
          created_at?: string;
          created_by?: string;
          cycle?: string;
          id?: string;
          join_product_id?: string | null;
          name?: string;
          status?: string;
        };
        Relationships: [
          {
            foreignKeyName: "payment_groups_contribution_product_id_fkey";
            columns: ["contribution_product_id"];
            isOneToOne: false;
            referencedRelation: "payment_products";
            referencedColumns: ["id"];
          },
          {
            foreignKeyName: "payment_groups_join_product_id_fkey";
            columns: ["join_product_id"];
            isOneToOne: false;
            referencedRelation: "payment_products";
            referencedColumns: ["id"];
          },
        ];
      };
      payment_invoices: {
        Row: {
          amount: number;
          currency: string;
          discount_amount: number;
          email: string | null;
          issued_at: string;
          kind: string;
          number: number;
          original_amount: number;
          paid_at: string;
          product_id: string;
          product_name: string;
          provider: string;
          provider_payment_id: string | null;
          series: string;
          session_id: string;
          user_id: string;
          year: number;
        };
        ComputedFields: never;
        Insert: {
          amount: number;
          currency: string;
          discount_amount: number;
          email?: string | null;
          issued_at: string;
          kind: string;
          number: number;
          original_amount: number;
          paid_at: string;
          product_id: string;
          product_name: string;
          provider: string;
          provider_payment_id?: string | null;
          series: string;
          session_id: string;
          user_id: string;
          year: number;
        };
        Update: {
          amount?: number;
          currency?: string;
          discount_amount?: number;
          email?: string | null;
          issued_at?: string;
          kind?: string;
          number?: number;
          original_amount?: number;
          paid_at?: string;
          product_id?: string;
          product_name?: string;
          provider?: string;
          provider_payment_id?: string | null;
          series?: string;
          session_id?: string;
          user_id?: string;
          year?: number;
        };
        Relationships: [];
      };
      payment_prices: {
        Row: {
          amount: number;
          currency: string;
          is_default: boolean;
          product_id: string;
        };
        ComputedFields: never;
        Insert: {
          amount: number;
          currency: string;
          is_default?: boolean;
          product_id: string;
        };
        Update: {
          amount?: number;
          currency?: string;
          is_default?: boolean;
          product_id?: string;
        };
        Relationships: [
          {
            foreignKeyName: "payment_prices_product_id_fkey";
            columns: ["product_id"];
            isOneToOne: false;
            referencedRelation: "payment_products";
            referencedColumns: ["id"];
          },
        ];
      };
      payment_products: {
        Row: {
          active: boolean;
          created_at: string;
          description: string;
          id: string;
          kind: string;
          name: string;
          terms: NonNullable<Json>;
        };
        ComputedFields: never;
        Insert: {
          active?: boolean;
          created_at?: string;
          description?: string;
          id: string;
          kind: string;
          name: string;
          terms?: NonNullable<Json>;
        };
        Update: {
          active?: boolean;
          created_at?: string;
          description?: string;
          id?: string;
          kind?: string;
          name?: string;
          terms?: NonNullable<Json>;
        };
        Relationships: [];
      };
      payment_refunds: {
        Row: {
          amount: number;
          created_at: string;
          currency: string;
          kind: string;
          provider: string;
          provider_payment_id: string | null;
          provider_refund_id: string;
          reason: string | null;
          session_id: string;
          status: string;
          updated_at: string;
          user_id: string | null;
        };
        ComputedFields: never;
        Insert: {
          amount: number;
          created_at: string;
          currency: string;
          kind: string;
          provider: string;
          provider_payment_id?: string | null;
          provider_refund_id: string;
          reason?: string | null;
          session_id: string;
          status: string;
          updated_at: string;
          user_id?: string | null;
        };
        Update: {
          amount?: number;
          created_at?: string;
          currency?: string;
          kind?: string;
          provider?: string;
          provider_payment_id?: string | null;
          provider_refund_id?: string;
          reason?: string | null;
          session_id?: string;
          status?: string;
          updated_at?: string;
          user_id?: string | null;
        };
        Relationships: [];
      };
      payment_subscriptions: {
        Row: {
          ends_at: string;
          started_at: string;
          tier: string;
          updated_at: string;
          user_id: string;
        };
        ComputedFields: never;
        Insert: {
          ends_at: string;
          started_at: string;
          tier: string;
          updated_at: string;
          user_id: string;
        };
        Update: {
          ends_at?: string;
          started_at?: string;
          tier?: string;
          updated_at?: string;
          user_id?: string;
        };
        Relationships: [];
      };
    };
    Views: {
      [_ in never]: never;
    };
    Functions: {
      cancel_checkout_session: {
        Args: { p_session_id: string };
        Returns: {
          amount: number;
          attempts: number;
          checkout_url: string | null;
          completed_at: string | null;
          coupon_id: string | null;
          created_at: string;
          currency: string;
          current_attempt: number | null;
          discount_amount: number;
          email: string | null;
          error_code: string | null;
          error_message: string | null;
          expires_at: string;
          fulfilment: Json | null;
          fulfilment_status: string;
          id: string;
          idempotency_fingerprint: string | null;
          idempotency_key: string | null;
          kind: string;
          metadata: NonNullable<Json>;
          original_amount: number;
          product_id: string;
          provider: string;
          provider_customer_id: string | null;
          provider_payment_id: string | null;
          provider_session_id: string | null;
          refunded_amount: number;
          review_reason: string | null;
          status: string;
          subject: string | null;
          terms: NonNullable<Json>;
          updated_at: string;
          user_id: string;
        };
        SetofOptions: {
          from: "*";
          to: "payment_checkout_sessions";
          isOneToOne: true;
          isSetofReturn: false;
        };
      };
      get_latest_checkout_session: {
        Args: { p_user_id?: string };
        Returns: {
          amount: number;
          attempts: number;
          checkout_url: string | null;
          completed_at: string | null;
          coupon_id: string | null;
          created_at: string;
          currency: string;
          current_attempt: number | null;
          discount_amount: number;
          email: string | null;
          error_code: string | null;
          error_message: string | null;
          expires_at: string;
          fulfilment: Json | null;
          fulfilment_status: string;
          id: string;
          idempotency_fingerprint: string | null;
          idempotency_key: string | null;
          kind: string;
          metadata: NonNullable<Json>;
          original_amount: number;
          product_id: string;
          provider: string;
          provider_customer_id: string | null;
          provider_payment_id: string | null;
          provider_session_id: string | null;
          refunded_amount: number;
          review_reason: string | null;
          status: string;
          subject: string | null;
          terms: NonNullable<Json>;
          updated_at: string;
          user_id: string;
        };
        SetofOptions: {
          from: "*";
          to: "payment_checkout_sessions";
          isOneToOne: true;
          isSetofReturn: true;
        };
      };
      get_or_create_checkout_session: {
        Args: {
          p_coupon?: string;
          p_currency?: string;
          p_email?: string;
          p_idempotency_key?: string;
          p_metadata?: Json;
          p_plan: string;
          p_price?: number;
          p_provider?: string;
          p_subject?: string;
          p_user_id?: string;
        };
        Returns: string;
      };
      payment_history: {
        Args: { p_page?: number; p_page_size?: number; p_status?: string };
        Returns: Json;
      };
      payment_stats: { Args: Record<PropertyKey, never>; Returns: Json };
      quote_checkout: {
        Args: { p_coupon?: string; p_currency?: string; p_plan: string };
        Returns: Json;
      };
    };
    Enums: {
      [_ in never]: never;
    };
    CompositeTypes: {
      [_ in never]: never;
    };
  };
};

type DatabaseWithoutInternals = Omit<Database, "__InternalSupabase">;

type DefaultSchema = DatabaseWithoutInternals[Extract<keyof Database, "public">];

export type Tables<
  DefaultSchemaTableNameOrOptions extends
    | keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends (DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  }
    ? keyof (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
        DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])
    : never) = never,
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
      DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])[TableName] extends {
      Row: infer R;
    }
    ? R
    : never
  : DefaultSchemaTableNameOrOptions extends keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
    ? (DefaultSchema["Tables"] & DefaultSchema["Views"])[DefaultSchemaTableNameOrOptions] extends {
        Row: infer R;
      }
      ? R
      : never
    : never;

export type TablesInsert<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends (DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never) = never,
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
      Insert: infer I;
    }
    ? I
    : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
    ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
        Insert: infer I;
      }
      ? I
      : never
    : never;

export type TablesUpdate<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends (DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never) = never,
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
      Update: infer U;
    }
    ? U
    : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
    ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
        Update: infer U;
      }
      ? U
      : never
    : never;

export type Enums<
  DefaultSchemaEnumNameOrOptions extends
    | keyof DefaultSchema["Enums"]
    | { schema: keyof DatabaseWithoutInternals },
  EnumName extends (DefaultSchemaEnumNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"]
    : never) = never,
> = DefaultSchemaEnumNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"][EnumName]
  : DefaultSchemaEnumNameOrOptions extends keyof DefaultSchema["Enums"]
    ? DefaultSchema["Enums"][DefaultSchemaEnumNameOrOptions]
    : never;

export type CompositeTypes<
  PublicCompositeTypeNameOrOptions extends
    | keyof DefaultSchema["CompositeTypes"]
    | { schema: keyof DatabaseWithoutInternals },
  CompositeTypeName extends (PublicCompositeTypeNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals;
  }
    ? keyof DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"]
    : never) = never,
> = PublicCompositeTypeNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"][CompositeTypeName]
  : PublicCompositeTypeNameOrOptions extends keyof DefaultSchema["CompositeTypes"]
    ? DefaultSchema["CompositeTypes"][PublicCompositeTypeNameOrOptions]
    : never;

export const Constants = {
  public: {
    Enums: {},
  },
} as const;
